# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Frozen teachers: networks kept out of parameters, state dict, EMA and DDP."""

from .frozen_teacher import FrozenTeacher

__all__ = ['FrozenTeacher']
