"""Defaults that functions and flags share; here `--help` reads them and loads no library."""

TOKENS_PER_BATCH = 4096  # of one forward pass of scoring; chosen here, not tuned
# paper, appendix H.3.3: one prompt for expert, amateur and training
SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
FORMS = ("linear", "quadratic", "exponential", "logarithmic", "sigmoid")
MAX_ANSWER_TOKENS = 512  # most new tokens of an answer that is graded; chosen here
LAST_TOKENS = 1000  # arXiv 2605.18607: labels of a trace, from its end, that its statistics are of
