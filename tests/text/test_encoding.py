import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.text import encoding
from bert_lightning.text.encoding import CachingEncoder
from bert_lightning.text.vocabulary import train_wordpiece
from tests.support.texts import NASTY


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def tokenizer(request):
    texts = [NASTY, "the quick brown fox jumps over the lazy dog", "中文 and ## signs [MASK] é"] * 3
    return train_wordpiece(texts, 300, lowercase=request.param, special_tokens=["[E1]"])


@given(
    batches=st.lists(
        st.lists(
            st.text(alphabet=NASTY, max_size=30) | st.sampled_from(["", " ", "a [MASK] b", "x[E1] [E1]y"]), max_size=6
        ),
        max_size=4,
    ),
    capacity=st.sampled_from([0, 20, 1 << 22]),
)
def test_cached_chunks_give_the_ids_of_whole_sentences(tokenizer, batches, capacity):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_CAPACITY", capacity)
        encoder = CachingEncoder(tokenizer)
        for texts in batches:
            ids, ends = encoder.encode(texts)
            expected = tokenizer.encode_batch(texts)
            found, start = [], 0
            for end in ends.tolist():
                found.append(ids[start:end].tolist())
                start = end
            assert found == expected
            assert start == len(ids)
