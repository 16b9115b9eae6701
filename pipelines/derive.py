"""Conversations derived from documents, when the user brings none: code gives signatures, pages give openings.

A Python function with a docstring gives two: docstring -> signature and signature -> docstring. A page with a title
gives one, in its own language: title -> first paragraphs.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

from pipelines.conversation import Conversation
from pipelines.documents import TextDocument

_OPENING_PROMPTS = {
    "de": "Schreibe den Anfang einer Seite mit dem Titel: {}",
    "en": "Write the opening of a page titled: {}",
    "es": "Escribe el comienzo de una página titulada: {}",
    "fr": "Écris le début d'une page intitulée : {}",
    "it": "Scrivi l'inizio di una pagina intitolata: {}",
    "nl": "Schrijf het begin van een pagina met de titel: {}",
    "pt": "Escreve o início de uma página intitulada: {}",
    "ru": "Напиши начало страницы под названием: {}",
}
_SIGNATURE_PROMPT = "Write the signature of the function: {}"
_DOCSTRING_PROMPT = "What does this function do?\n\n{}"
_LEAST_WORDS = 3  # a shorter description or opening says nothing
_LONGEST_TITLE = 200  # characters


def derive_conversations(document: TextDocument, max_characters: int) -> Iterator[Conversation]:
    """The conversations of a document, each of at most `max_characters` in prompt and response together."""
    found = _function_pairs(document.text) if document.language == "python" else _opening(document, max_characters)
    for kind, prompt, response in found:
        if len(prompt) + len(response) <= max_characters:
            yield Conversation(
                messages=[{"role": "user", "content": prompt}, {"role": "assistant", "content": response}],
                kind=kind,
                origin=document.id,
                source=document.source,
                language=document.language,
            )


def _function_pairs(code: str) -> Iterator[tuple[str, str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the code read, which is not ours
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # not a whole Python file (or not of this version): its text is trained on, but gives no conversation
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("__"):
            continue
        description = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        if len(description.split()) < _LEAST_WORDS or description.startswith(">>>"):
            continue
        signature = _signature(node)
        yield "docstring-signature", _SIGNATURE_PROMPT.format(description), signature
        yield "signature-docstring", _DOCSTRING_PROMPT.format(signature), description


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{keyword} {node.name}({ast.unparse(node.args)}){returns}:"


def _opening(document: TextDocument, max_characters: int) -> Iterator[tuple[str, str, str]]:
    title = " ".join(document.title.split())
    if not title or len(title) > _LONGEST_TITLE:
        return
    prompt = _OPENING_PROMPTS.get(document.language, _OPENING_PROMPTS["en"]).format(title)
    opening = _first_paragraphs(document.text, title, max_characters - len(prompt))
    if len(opening.split()) >= _LEAST_WORDS:
        yield "title-opening", prompt, opening


def _first_paragraphs(text: str, title: str, most: int) -> str:
    """Whole paragraphs from the beginning, up to `most` characters; of a longer first one, its whole sentences."""
    paragraphs = [paragraph.strip() for paragraph in re.split(r"\n\s*\n", text)]
    paragraphs = [paragraph for paragraph in paragraphs if paragraph and " ".join(paragraph.split()) != title]
    opening = ""
    for paragraph in paragraphs:
        longer = f"{opening}\n\n{paragraph}" if opening else paragraph
        if len(longer) > most:
            break
        opening = longer
    if opening or not paragraphs:
        return opening
    sentences = re.findall(r".*?[.!?。！？](?=\s)", paragraphs[0][: max(most, 0)], re.DOTALL)
    return "".join(sentences).strip()
