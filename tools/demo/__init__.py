# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The demonstration: fabricated scenes, stand-in teachers, training runs and their picture."""
