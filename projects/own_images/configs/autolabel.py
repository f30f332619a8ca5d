# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The student of the masks that another method of the comparison makes, which was trained before.

`rsseg autolabel` makes the masks and writes the student's config, which is trained as it is; of
this file only `labelled_by` is read.
"""

_base_ = './supervised.py'

labelled_by = 'rsmtdf_recipe'
