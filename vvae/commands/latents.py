"""`vvae latents`, `vvae latents export` and `vvae decode`."""

from typing import Any

from vvae import processes
from vvae.latents.options import DecodeLatents, EncodeLatents, ExportLatents, NetworkOptions


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

        return load_pretrained(options.pretrained)
    from vvae import build

    return build.load(options.workdir, options.checkpoint)
