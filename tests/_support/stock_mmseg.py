# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Predict with exported models in a process that cannot import mmseg_semi_rs.

    python stock_mmseg.py FOLDER...

Each folder holds a config, a checkpoint and ``image.png``; ``stock.npz`` is written into it. Beside
mmcv-lite mmseg does not import at all; where that is what is installed, an empty stand-in takes the
place of the compiled operators, which none of these models calls.
"""

import importlib.util
import sys
import types
from pathlib import Path


class Blocked:
    """Refuses to find the package."""

    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'mmseg_semi_rs':
            raise ImportError(f'{name} is blocked')


sys.meta_path.insert(0, Blocked())

import numpy as np  # noqa: E402
import torch  # noqa: E402

if importlib.util.find_spec('mmcv._ext') is None:
    from mmcv.utils import ext_loader

    ext_loader.load_ext = lambda name, funcs: types.SimpleNamespace(**dict.fromkeys(funcs))

from mmseg.apis import MMSegInferencer, inference_model, init_model  # noqa: E402


def main(folders: list[str]) -> None:
    torch.set_num_threads(1)
    for folder in map(Path, folders):
        image = str(folder / 'image.png')
        (config,), (checkpoint,) = folder.glob('*.py'), folder.glob('*.pth')
        torch.load(checkpoint, weights_only=True)
        model = init_model(str(config), str(checkpoint), 'cpu')
        found = inference_model(model, image)
        inferencer = MMSegInferencer(str(config), str(checkpoint), device='cpu')
        labels = inferencer(image, out_dir=str(folder / 'pictures'), show=False)['predictions']
        np.savez(
            folder / 'stock.npz',
            logits=found.seg_logits.data.numpy(),
            labels=labels,
            classes=model.dataset_meta['classes'],
            palette=model.dataset_meta['palette'],
        )
    assert 'mmseg_semi_rs' not in sys.modules


if __name__ == '__main__':
    main(sys.argv[1:])
