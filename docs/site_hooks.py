"""What MkDocs does beside its plugins: pages from the root of the repository, links, formulas."""

import posixpath
import re

import latex2mathml.converter
from mkdocs.structure.files import File

# File in the root of the repository -> page of the site.
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.md",
}
_INLINE_CODE = re.compile(r"<code>[^<]*</code>")
_OPTION = re.compile(r"--[\w.-]+")
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_config(config):
    """Shows blocks of the language `math` as MathML, as GitHub shows them as formulas."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "math", "format": format_math}]
    return config


def format_math(source, language, css_class, options, md, **kwargs) -> str:
    """Returns LaTeX as MathML in a block that scrolls."""
    del language, options, md, kwargs
    mathml = latex2mathml.converter.convert(source, display="block")
    return f'<div class="{css_class}">{mathml}</div>'


def on_files(files, config):
    """Adds the pages that stand in the root of the repository, where GitHub looks for them."""
    root = posixpath.dirname(config.config_file_path.replace("\\", "/"))
    for name, page in ROOT_PAGES.items():
        with open(posixpath.join(root, name), encoding="utf-8") as file:
            text = file.read()
        if name == "LICENSE":
            text = f"# Licence\n\n{text}"
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links between files of the repository into links between pages of the site."""
    del config, files
    source = page.file.src_uri
    inverse = {target: name for name, target in ROOT_PAGES.items()}
    folder = posixpath.dirname(inverse.get(source, f"docs/{source}"))
    here = posixpath.dirname(source)

    def replace(match: re.Match) -> str:
        link = match[2]
        if re.match(r"[a-z]+:", link):
            return match[0]
        target = posixpath.normpath(posixpath.join(folder, link))
        target = ROOT_PAGES.get(target, target.removeprefix("docs/"))
        return f"{match[1]}{posixpath.relpath(target, here or '.')}{match[3] or ''}{match[4]}"

    return _LINK.sub(replace, markdown)


def on_page_content(html, page, config, files):
    """Marks options in the text, which browsers would break after their hyphens."""
    del page, config, files
    return _INLINE_CODE.sub(
        lambda code: _OPTION.sub(r'<span class="option">\g<0></span>', code[0]), html
    )
