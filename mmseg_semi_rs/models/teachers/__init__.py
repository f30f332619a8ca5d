# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Frozen teachers: networks that are no parameter, no state, no part of EMA or DDP."""

from .frozen_teacher import FrozenTeacher

__all__ = ['FrozenTeacher']
