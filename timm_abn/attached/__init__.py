"""Networks whose map only explains: a trained backbone that stays as it is, with an attention branch attached to it."""
