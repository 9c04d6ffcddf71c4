from rgjax.errors import UserError, first_few, nearest, unknown


def test_user_errors_are_separate_from_defects():
    assert not issubclass(UserError, ValueError | TypeError | OSError)


def test_an_unknown_name_lists_the_valid_ones_and_suggests_the_nearest():
    assert str(unknown("loss", "focl", ("ce", "focal"))) == (
        "unknown loss 'focl' (did you mean 'focal'?); valid: ce, focal"
    )
    assert "did you mean" not in str(unknown("loss", "zzz", ["ce"]))
    assert nearest("focl", ["ce", "focal"]) == "focal"
    assert nearest("zzz", ["ce"]) == ""


def test_long_lists_are_cut():
    assert first_few("abcdef") == "a, b, c, d, e, ..."
    assert first_few("ab") == "a, b"


def test_a_message_is_one_printable_line_of_limited_length():
    text = str(UserError("a\nb\x1b[31m\ud800 " + "c" * 10**6 + " fix"))
    assert text.startswith("a b\\x1b[31m\\ud800 ccc") and text.endswith("ccc fix")
    assert text.isprintable() and len(text) < 5000
