# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Train the demo's stand-ins for DINOv2 and CLIP: how tools/demo/configs/teachers was made.

    make demo-teachers
    python tools/make_demo_teachers.py --out tools/demo/configs/teachers

Nothing is downloaded, so the demo cannot have the weights of DINOv2 and CLIP. Two small vision
transformers of their architectures take their places. They know other fabricated places, several
hundred of them, each photographed on two dates; no scene of the demo is among them, and no class
map is ever looked at (tools/demo/places.py makes all that they see):

dinov2.pth  Self-distillation without labels: from a photograph with some patches blanked out, each
            patch predicts to which cluster an average of the network assigns the same spot in the
            photograph of the other date (DINO, Caron et al., arXiv 2104.14294; patches as in iBOT,
            arXiv 2111.07832; Sinkhorn-Knopp as in DINOv2, arXiv 2304.07193).
clip.pt     Both towers, trained by CLIP's contrastive loss on rectangles of photographs and what
            people said about them (as in RegionCLIP, arXiv 2112.09106). RS-MTDF distils the vision
            tower; SemiEarth asks both towers about pseudo labels.

The files have the key names of Meta's release and of open_clip, weights in float16. Beside each
lies a JSON file with its SHA-256, command, seed and versions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmseg_semi_rs.utils.command_line import Faults, command_parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(
        'demo-teachers',
        "Train the demo's stand-ins for foundation models",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--out', default='tools/demo/configs/teachers', help='folder to write to')
    parser.add_argument('--seed', type=int, default=0, help='seed of places and training')
    parser.add_argument('--places', type=int, default=300, help='places to learn from')
    parser.add_argument(
        '--steps', type=int, help='training steps of each (default: 2000 of CLIP, 600 of DINOv2)'
    )
    parser.add_argument('--workers', type=int, default=2, help='processes to work in')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tool."""
    args = parse_args(arguments)
    from demo.teachers import FILES, make_demo_teachers

    with Faults(tool='demo.teachers'):
        make_demo_teachers(**vars(args))
    print(f'{args.out}: {", ".join(FILES.values())}')


if __name__ == '__main__':
    main()
