"""Characters that break tokenizers."""

NASTY = (
    "abcXYZ éÉñß İı 中文字 한국 ёЁ Σς\u0000\ufffd\u200b\u00a0\u2028\t\n\r" + ".,!?-_'\"[]()#@/0189😀\U000e0001e\u0301"
)
