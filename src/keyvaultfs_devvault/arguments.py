"""The options of `keyvaultfs dev`. Standard library only: help and completion work without a web server."""

from __future__ import annotations

import argparse
from pathlib import Path

SEED = """\
a seed file's one table is [secrets]; a secret is its value, or a table with any of value, file (beside the seed file),
content_type, tags, enabled, nbf, exp, version, and certificate, which makes a key and a chain:
  [secrets]
  pw = "p@ssw0rd!"
  config = { value = '{"port": 1}', content_type = "application/json", tags = { env = "prod" } }
  web = { certificate = "pkcs12" }
  api = { certificate = { format = "pem", key = "ec", intermediates = 2, order = "shuffled", private_key = false } }
format: pem, pkcs12; key: rsa, ec; intermediates: 0 to 8; order: leaf-first, root-first, shuffled.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `keyvaultfs dev`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = SEED
    parser.add_argument(
        "--seed",
        metavar="FILE|DIR",
        type=Path,
        help="secrets: a TOML file, or a directory of files",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="loopback address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port", metavar="N", type=int, default=0, help="port of the vault (default: a free one)"
    )
    parser.add_argument("--imds-port", metavar="N", type=int, default=0, help="port of the token endpoint")
    parser.add_argument(
        "--imds-host",
        metavar="ADDRESS",
        help="another address for the token endpoint, such as 169.254.169.254 if the interface lo has it;"
        " heard on lo alone",
    )
    parser.add_argument(
        "--admin-port", metavar="N", type=int, default=0, help="port of the control interface"
    )
    parser.add_argument(
        "--name", metavar="HOST", action="append", default=[], help="another host name to certify"
    )
    parser.add_argument(
        "--mount", metavar="MOUNTPOINT", type=Path, help="mount the vault there, until the end"
    )
    parser.add_argument("--latency", metavar="SECONDS", type=float, default=0.0, help="before each answer")
    parser.add_argument(
        "--token-lifetime", metavar="SECONDS", type=float, default=86_400.0, help="of tokens (default: a day)"
    )
    parser.add_argument(
        "--ca-out", metavar="FILE", type=Path, help="where to write the authority's certificate"
    )
    parser.add_argument(
        "--authority",
        metavar="FILE",
        type=Path,
        help="keep the authority with its key there, so that it is the same at the next start",
    )
    parser.add_argument(
        "--arc",
        metavar="FOLDER",
        type=Path,
        help="have the token endpoint be Azure Arc's, whose key files go there; /var/opt/azcmagent/tokens is where"
        " Microsoft's clients look",
    )
    parser.add_argument("--json", action="store_true", help="say where everything is in one line of JSON")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
