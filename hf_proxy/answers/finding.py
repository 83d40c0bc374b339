"""Where in a text its answer stands: behind the thinking, in the last box, by its letter."""

import re
from decimal import Decimal

# how models mark their thinking; the last are signs of a tokenizer of their own
_OPEN = r"<(?:seed:)?(?:think|thinking|thought|reasoning)>|\[THINK\]|\u25c1think\u25b7"
_CLOSE = _OPEN.replace("<(", "</(").replace(r"\[", r"\[/").replace(r"\u25c1", r"\u25c1/")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?:(\{)|(\d+))")  # \boxed 5 holds one number
_BETWEEN_BOXES = re.compile(r"[\s$.]*(?:,|(?:,\s*)?(?:and|or))[\s$]*")
# \, \: \; \! \> "\ " ~ {,} \thinspace \hspace{..} and blanks of Unicode, as thousands are parted
_THIN = (
    r"(?:\\[,:;!> ]|~|\{\s*,\s*\}|,\\!|\\(?:thin|med|thick|negthin)space(?:\{\}|\s)*"
    r"|\\hspace\{[^}]*\}"
    "|[\u00a0\u2002\u2007\u2009\u202f])"
)
_THOUSANDS = re.compile(rf"(?<![\d.,])(\d{{1,3}}(?:{_THIN}\s*\d{{3}})+)(?!\d)")
_BLANK_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_SCIENTIFIC = re.compile(r"(?<![\w.\\])([-+]?(?:\d+\.?\d*|\.\d+))[eE]([-+]?\d{1,2})(?![\w.]*\w)")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf|mbox)\s*\{([^{}]*)\}")
_DECIMALS = re.compile(rf"(?<=\d\.)\d{{3}}(?:{_THIN}\d{{3}})*{_THIN}\d{{1,3}}(?!\d)")
_LETTER = r"[*_$\s]*[(\[{]?[*_$\s]*([A-J])(?![A-Za-z0-9'\u2019])"
# "A triangle" and "I think" are no letters of choice
_ENDED = r"(?:(?=[*_$\s]*(?:[)\]}.,;:*]|$|\n))|(?<![AI]))"
_IS = r"(?:\s+(?:would|must|should))?(?:\s+(?:is|be|are|option|choice))*\s*:?\s*"
_NAMED = (  # the last counts
    rf"(?i:\b(?:answer|(?:correct|right|best)\s+(?:option|choice|one)){_IS}){_LETTER}{_ENDED}",
    rf"(?i:\b(?:choose|chose|select|pick)(?:\s+(?:option|choice))?\s*:?\s*){_LETTER}{_ENDED}",
    rf"(?i:\b(?:option|choice)\b){_LETTER}\)?[*_]*\s+is\s+(?:the\s+)?(?:correct|right|best|answer)",
)
_SEEN = (  # count where all are the same
    rf"(?i:\b(?:option|choice)\b){_LETTER}",
    r"\(([A-J])\)",
    r"(?m)^[*_\s]*([A-J])[*_]*[).:](?=\s|[*_]|$)",
    r"^[*_\s]*([A-J])[*_\s.]*$",
)


def is_thinking_mark(token: str) -> bool:
    """Whether a token opens or closes thinking."""
    return re.fullmatch(f"{_OPEN}|{_CLOSE}", token) is not None


def opens_thinking(text: str) -> bool:
    """Whether a text, as a prompt, ends inside thinking that it opened itself."""
    marks = list(re.finditer(f"(?P<open>{_OPEN})|{_CLOSE}", text))
    return bool(marks) and marks[-1]["open"] is not None


def behind_thinking(text: str) -> str:
    """The text without its thinking; what was opened and never closed is thinking to its end."""
    text = re.sub(f"(?:{_OPEN}).*?(?:{_CLOSE})", " ", text, flags=re.DOTALL)
    text = re.split(_CLOSE, text)[-1]  # opened in the prompt
    return re.split(_OPEN, text)[0]


def thinking_spans(text: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Where the thinking and where the answer stands, the marks in neither; None: no marks.

    What is closed but not opened was opened in the prompt; what is never closed leaves no answer.
    """
    opened, closed = re.search(_OPEN, text), re.search(_CLOSE, text)
    if opened and closed and closed.start() < opened.start():
        opened = None
    if opened is None and closed is None:
        return None
    start = opened.end() if opened else 0
    if opened and text[: opened.start()].strip():  # a text that speaks of the mark
        return None
    if closed is None:
        return (start, len(text)), (len(text), len(text))
    return (start, closed.start()), (closed.end(), len(text))


def last_boxes(text: str) -> list[str]:
    r"""What the last `\boxed{}` or `\fbox{}` holds, and before it those that it is joined to.

    Joined by a comma, "and" or "or" alone: parts of one answer, where the answer has parts.
    """
    found: list[str] = []
    end = 0
    for match in _BOX.finditer(text):
        if match.start() < end:  # a box in a box
            continue
        start, close = match.end(), match.end()
        if match[1]:
            depth = 1
            while close < len(text) and depth:
                depth += {"{": 1, "}": -1}.get(text[close], 0) if text[close - 1] != "\\" else 0
                close += 1
            if depth:  # cut off
                break
        content = text[start : close - 1] if match[1] else match[2]
        if inner := last_boxes(content):
            content = inner[-1]
        if not content.strip():
            continue
        joined = found and _BETWEEN_BOXES.fullmatch(text[end : match.start()])
        found = [*found, content] if joined else [content]
        end = close
    return found


def plain_numbers(text: str, *, whole: bool = False) -> str:
    r"""Numbers as one run of digits: `1\,234` as 1234, `1.5e3` as 1500.

    Args:
        whole: the text is one expression, in which a blank parts thousands too.
    """
    text = text.replace("\u2212", "-")
    text = _THOUSANDS.sub(lambda match: re.sub(rf"{_THIN}|\s", "", match[1]), text)
    text = _DECIMALS.sub(lambda match: re.sub(_THIN, "", match[0]), text)
    if whole and _BLANK_THOUSANDS.fullmatch(text.strip()):
        text = text.replace(" ", "")
    return _SCIENTIFIC.sub(lambda m: format(Decimal(f"{m[1]}e{m[2]}"), "f"), text)


def choice_in(expression: str) -> str | None:
    r"""The letter of choice that an expression is: `C`, `(C)`, `C. 5` or `\text{(C)}`."""
    while (bare := _WRAPPED.sub(r"\1", expression)) != expression:
        expression = bare
    expression = re.sub(r"^(?i:option|choice|answer)\b[\s:]*", "", expression.strip(" $*.\\"))
    match = re.match(r"\(?\s*([A-J])\s*(?:[).:](?![.\w(])|$)", expression)
    return match[1] if match else None


def choice_of_text(text: str) -> str | None:
    """The letter that a text without a box names as its answer; None where it names several."""
    text = _WRAPPED.sub(r"\1", text)
    for pattern in (*_NAMED, *_SEEN):
        letters = re.findall(pattern, text)
        if letters and (pattern in _NAMED or len(set(letters)) == 1):
            return letters[-1]
    return None
