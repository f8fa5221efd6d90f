"""How the programs start: on Linux, with huge pages for the C library's allocator.

They make training on a CPU about 1.4 times faster. glibc reads the setting once, when a process
starts, so a program begins anew with it.
"""

import os
import sys

TUNABLES, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def with_huge_pages() -> None:
    """Replaces this process by the same program with huge pages. Nothing happens where the
    environment speaks of GLIBC_TUNABLES already (an empty value keeps huge pages off), or where the
    system is not Linux.
    """
    if sys.platform == "linux" and sys.executable and TUNABLES not in os.environ:
        os.environ[TUNABLES] = HUGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
