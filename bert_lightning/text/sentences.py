"""Sentence splitting by the rules of `sentencex` (Wikimedia), which supports about 200 languages."""

import sentencex


def split_sentences(paragraph: str, language: str = "en") -> list[str]:
    """Split one paragraph into sentences; drop surrounding spaces and empty sentences.

    `language` is a code of two or three letters. Quoted speech stays one sentence.

    >>> split_sentences('Mr. Holmes rose. "Come in! It is open," he said.')
    ['Mr. Holmes rose.', '"Come in! It is open," he said.']
    """
    return [stripped for sentence in sentencex.segment(language, paragraph) if (stripped := sentence.strip())]
