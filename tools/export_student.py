# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Write one network of a trained model as a plain mmseg config and checkpoint, and as ONNX or PT2.

    python tools/export_student.py CONFIG CHECKPOINT --out exported
    python tools/export_student.py CONFIG CHECKPOINT --out exported --network student --onnx --pt2
    python tools/export_student.py configs/co2s/CONFIG CHECKPOINT --out exported --network a

What is written predicts as the original does, which is checked; it says what it needs. Where that
is mmseg alone, it is meant with the full mmcv: beside mmcv-lite mmseg does not import by itself.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('export', 'Export one network of a trained model')
    parser.add_argument('config', help='config file of the training')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', metavar='FOLDER', required=True, help='where to write')
    parser.add_argument(
        '--network',
        metavar='NETWORK',
        help='teacher or student; of two students a or b (default: what the config predicts on)',
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help="size of the network's images in pixels (default: of a window, else of a crop)",
    )
    parser.add_argument('--onnx', action='store_true', help='write an ONNX file too')
    parser.add_argument('--pt2', action='store_true', help='write a file of torch.export too')
    parser.add_argument(
        '--opset', type=int, help='version of the ONNX operators (default: that of torch.onnx)'
    )
    return parse(parser, arguments, config=False)


def export(args: argparse.Namespace) -> None:
    """Take the network and write the files."""
    register_all()
    from mmseg_semi_rs.apis.export import export_network, file_name, parse_size, take_network
    from mmseg_semi_rs.apis.model_metadata import write_stac_item
    from mmseg_semi_rs.apis.onnx_export import export_onnx
    from mmseg_semi_rs.apis.pt2_export import export_pt2

    if args.opset is not None and not args.onnx:
        raise ValueError(f'--opset {args.opset} is of an ONNX file: add --onnx.')
    taken = take_network(args.config, args.checkpoint, args.network, parse_size(args.size))
    name = file_name(args.config, taken.name)
    network = export_network(taken, args.out, name)
    print(network)
    graphs = []
    if args.onnx:
        graphs.append(export_onnx(taken, Path(args.out) / f'{name}.onnx', args.opset))
        print(graphs[-1])
    if args.pt2:
        graphs.append(export_pt2(taken, Path(args.out) / f'{name}.pt2'))
        print(graphs[-1])
    if graphs:
        print(f'wrote {write_stac_item(taken, network, graphs)} (STAC item)')


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of mmseg and torch, about their own inner workings
        export(args)


if __name__ == '__main__':
    main()
