# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# A regular package: some distributions install a top-level `tests`, which would win over a
# namespace when a spawned process imports a test module.
