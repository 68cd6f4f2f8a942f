"""`vvae latents`, `vvae latents export` and `vvae decode`."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vvae import cli, cli_help, processes, runtime
from vvae.latents.options import DecodeLatents, EncodeLatents, ExportLatents, NetworkOptions
from vvae.pretrained.locate import describe_missing
from vvae.run import open_run

COMMANDS = {"latents": EncodeLatents, "latents export": ExportLatents, "decode": DecodeLatents}
WORDS = ("latents", "decode")  # with which a command line begins


def main(arguments: Sequence[str]) -> int:
    """Reads the command line, which begins with the command, and runs it. Returns the status."""
    request = read_request(arguments)
    check_request(request)
    runtime.prepare_jax()
    run(request)
    return 0


def read_request(arguments: Sequence[str]) -> Any:
    """Parses the command line.

    Returns:
      An instance of a class in COMMANDS.

    Raises:
      ValueError: for unknown options, missing files, or a value of another type.
      SystemExit: with status 0 after --help.
    """
    takes = cli.count_values(COMMANDS.values(), of_bool=0)
    words, options = cli.divide(arguments, takes)
    name = "latents export" if words[:2] == ["latents", "export"] else words[0]
    part, files = COMMANDS[name], words[len(name.split()) :]
    operands = getattr(part, "operands", ())
    usage = " ".join((name, *operands))
    if cli.asks_for_help(options):
        print(f"usage: vvae {usage} [OPTIONS]\n\n{inspect.cleandoc(part.__doc__ or '')}")
        print(f"\n{cli_help.format_options([part])}")
        raise SystemExit(0)
    cli.check_options(options, [part])
    if len(files) != len(operands):
        given = f"not {' '.join(files)}" if files else "and none is given"
        wanted = f"takes {' and '.join(operands)}" if operands else "takes options alone"
        raise ValueError(f"{name} {wanted}, {given}: vvae {usage}")
    return cli.parse_command([part], files, options)[0]


def check_request(request: Any) -> None:
    """Raises ValueError for a command that cannot begin: no network, no videos."""
    if isinstance(request, NetworkOptions):
        if request.workdir is not None:
            open_run(request.workdir)
        elif request.pretrained is not None and not request.pretrained.exists():
            raise ValueError(f"--pretrained {describe_missing(request.pretrained)}")
    if isinstance(request, EncodeLatents):
        from vvae.data.collection.index import INDICES, list_sources

        list_sources(request.data.path or "", runtime.cache_folder() / INDICES)
    elif not Path(request.files[0]).is_dir():
        raise ValueError(f"{request.files[0]}: no such folder")


def run(request: EncodeLatents | ExportLatents | DecodeLatents) -> None:
    """Encodes, exports or decodes, as the options ask."""
    match request:
        case EncodeLatents():
            encode(request)
        case ExportLatents():
            export(request)
        case DecodeLatents():
            decode(request)


def encode(options: EncodeLatents) -> None:
    """Encodes a collection to a store; prints what was done."""
    from vvae.latents.encode import Work, encode_collection

    runtime.share_heaps()
    group = options.parallel.group()
    if group is not None:
        processes.connect(group)
    model, params = _load(options)
    work = Work(
        latents_per_piece=options.piece,
        readers=options.readers,
        shard_bytes=round(options.shard_mb * 1e6),
        verify=options.verify,
        reuse=options.reuse,
    )
    summary = encode_collection(
        model,
        params,
        options.data.path,
        options.out,
        plan=options.plan(),
        dtype=options.dtype,
        work=work,
    )
    print("\n".join(summary.lines()))


def export(options: ExportLatents) -> None:
    """Exports a store to the format of a trainer."""
    from vvae.latents.exports.export import export_store

    store, out = options.files
    exported = export_store(store, out, options.format, text=options.text, seed=options.seed)
    print(f"{exported.num_clips} clips: {out}")
    for shape, count in sorted(exported.shapes.items()):
        print(f"  {count} of {'x'.join(map(str, shape))} (channels, frames, rows, columns)")
    if exported.note:
        print(exported.note)


def decode(options: DecodeLatents) -> None:
    """Writes the videos of a store, or one of them."""
    from vvae.latents.decode import decode_file, decode_store

    store, out = options.files
    choice = {"seed": options.seed, "lossless": options.lossless}
    model, params = _load(options)
    if options.is_one_file:
        decode_file(model, params, store, out, name=options.name, **choice)
        print(f"written: {out}")
        return
    only = None if options.name is None else [options.name]
    decoded = decode_store(model, params, store, out, only=only, **choice)
    kept = f" ({decoded.num_kept} were there already)" if decoded.num_kept else ""
    print(f"{len(decoded.paths)} videos: {out}{kept}")


def _load(options: NetworkOptions) -> tuple[Any, Any]:
    if options.pretrained is not None:
        from vvae.pretrained.load import load_pretrained

        return load_pretrained(options.pretrained, dtype=options.activations)
    from vvae import build

    return build.load(options.workdir, options.checkpoint)
