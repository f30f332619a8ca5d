# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What stands for a class in a head that compares patches with classes: text, or learnt queries."""

from .learnable_queries import LearnableQueries
from .text_embedding import TEMPLATES, TextEmbedding

__all__ = ['TEMPLATES', 'LearnableQueries', 'TextEmbedding']
