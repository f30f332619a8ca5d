# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Verifiers: networks that look at tiles and tell which class is where."""

from .base import EvidenceMaker, Verifier
from .clip_verifier import CLIPVerifier
from .generative_verifier import GenerativeVerifier
from .sam3_verifier import Sam3Verifier

__all__ = ['CLIPVerifier', 'EvidenceMaker', 'GenerativeVerifier', 'Sam3Verifier', 'Verifier']
