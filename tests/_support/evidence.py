# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Tiles whose truth is known, evidence of them, and a model that is unsure of half."""

import cv2
import numpy as np
import torch

from mmseg_semi_rs.purification.evidence import Evidence, quantise
from mmseg_semi_rs.purification.policy import EvidencePolicy
from mmseg_semi_rs.purification.purifier import EvidencePurifier
from tests._support.mean_teacher import batch, build
from tests._support.networks import CLASSES, SIZE

TILE = 80


GEOMETRY = (('resize', (72, 96)), ('crop', (3, 9, SIZE, SIZE)), ('flip', (0,)))


def truth_of(path):
    """Labels of a tile: thick stripes, which its name moves."""
    shift = int(path.rsplit('_', 1)[1])
    return (np.indices((TILE, TILE))[shift % 2] // 20 + shift) % CLASSES


def evidence_of(labels, seen=None, score=0.95):
    scores = np.stack([(labels == k) * score for k in range(CLASSES)])
    return Evidence(
        quantise(scores), np.ones(labels.shape, bool) if seen is None else seen, labels.shape
    )


def tell(path):
    return evidence_of(truth_of(path))


def purifier(verify, policy=None, trust=None, **settings):
    return EvidencePurifier(
        policy or EvidencePolicy(scope='all', band=dict(radius=0)),
        lambda paths: [verify(path) if path else None for path in paths],
        CLASSES,
        trust,
        **settings,
    )


def with_tiles(data, geometry=GEOMETRY):
    for index, sample in enumerate(data['weak']):
        sample.set_metainfo(
            dict(
                img_path=f'tile_{index}',
                ori_shape=(TILE, TILE),
                img_shape=(SIZE, SIZE),
                geometry=geometry,
            )
        )
    return data


def truth_in_crop(path):
    """The stripes, moved step by step."""
    labels = cv2.resize(truth_of(path).astype(np.uint8), (96, 72), interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(labels[3 : 3 + SIZE, 9 : 9 + SIZE][:, ::-1].astype(np.int64))


def unsure(**settings):
    """A model whose teacher is sure of half of its pixels."""
    model = build(conf_thresh=0.95, **settings)
    inputs, data = batch(3)
    pseudo = model.make_pseudo_labels(inputs['weak'], data['weak'])['student']
    model.gate.threshold.fill_(pseudo.confidence.median())
    return model, inputs, with_tiles(data)
