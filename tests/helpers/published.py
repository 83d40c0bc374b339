"""Points read off the figures of arXiv 2509.21013, with the numbers they give."""

import numpy as np


def _numbers(text):
    return np.array([float(number) for number in text.split()])


# 1B rBridge against 13B accuracy in percent, after 250B, 500B, ... 3750B tokens
ARC_X = _numbers(
    "0.88885 0.86914 0.84280 0.84239 0.84100 0.83039 0.82438 0.82923 0.81772 0.81600 0.80644 "
    "0.80314 0.78940 0.78683 0.78216"
)
ARC_Y = _numbers(
    "41.041 52.560 58.806 62.030 64.645 66.110 65.641 64.523 70.025 68.037 72.538 69.600 71.848 "
    "72.187 72.355"
)
CQA_X = _numbers(
    "1.01501 0.97876 0.97427 0.95394 0.94424 0.93971 0.94144 0.93333 0.92418 0.93003 0.91294 "
    "0.91782 0.90944 0.89920 0.89861"
)
CQA_Y = _numbers(
    "49.304 55.364 52.580 62.559 62.156 61.988 61.688 64.973 64.386 63.729 69.360 64.314 63.083 "
    "69.346 67.895"
)
TOKENS = 250.0 * np.arange(1, 16)  # billions

# FLOPs and decision accuracy in percent
BASELINE_FRONTIER = [
    (3.444e16, 73.83),
    (7.565e17, 76.17),
    (1.513e18, 77.17),
    (1.681e18, 77.33),
    (1.849e18, 77.67),
    (2.647e18, 80.00),
    (3.369e18, 81.83),
]
RBRIDGE_FRONTIER = [
    (1.939e15, 75.67),
    (2.941e15, 78.67),
    (1.377e16, 78.83),
    (2.456e16, 80.50),
    (2.947e16, 80.83),
]
SAVINGS = [201.2, 733.4, 160.6, 115.1, 100.2]
