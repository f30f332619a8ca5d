# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Training and validation loops."""

from .semi_train_loop import SemiTrainLoop
from .teacher_student_val_loop import TeacherStudentValLoop

__all__ = ['SemiTrainLoop', 'TeacherStudentValLoop']
