"""When an answer leaves: at times of a public schedule, not when the work is done.

How long a local update takes depends on how much its person has said, and on what else her machine does. An
answer that left at once would tell the server so. It leaves at the first of the moments 1/4, 1/2, 1, 2, ...
seconds after the question was taken up that is not over: a server learns which power of two it was, and for a
study whose updates take less than a quarter of a second that is always the same one. A device waits at most
as long again as it worked.
"""

from __future__ import annotations

FIRST = 0.25  # seconds, a power of two: every moment is exact


def leaves_after(took: float) -> float:
    """Seconds after its question at which an answer leaves that took `took` seconds to make.

    Args:
        took: seconds, not negative.

    Returns:
        The smallest FIRST * 2^k, k = 0, 1, ..., that is not below `took`.
    """
    moment = FIRST
    while moment < took:
        moment *= 2
    return moment
