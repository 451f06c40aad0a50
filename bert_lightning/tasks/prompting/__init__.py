"""Classification by filling a cloze: the model's words at a mask are the answers."""
