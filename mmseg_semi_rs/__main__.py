# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""``python -m mmseg_semi_rs`` is ``rsseg``."""

import sys

from .cli import main

if __name__ == '__main__':
    sys.exit(main())
