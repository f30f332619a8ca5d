# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Class embeddings for heads that compare patches with classes: from text, or learnt queries."""

from .learnable_queries import LearnableQueries
from .text_embedding import TEMPLATES, TextEmbedding

__all__ = ['TEMPLATES', 'LearnableQueries', 'TextEmbedding']
