from rgjax.errors import UserError, first_few, unknown


def test_a_user_error_is_not_mistaken_for_a_defect():
    assert not issubclass(UserError, ValueError | TypeError | OSError)


def test_an_unknown_name_lists_the_valid_ones_and_suggests_the_nearest():
    assert str(unknown("loss", "focl", ("ce", "focal"))) == (
        "unknown loss 'focl' (did you mean 'focal'?); valid: ce, focal"
    )
    assert "did you mean" not in str(unknown("loss", "zzz", ["ce"]))


def test_a_long_list_is_cut():
    assert first_few("abcdef") == "a, b, c, d, e, ..."
    assert first_few("ab") == "a, b"


def test_an_error_is_one_line_that_a_terminal_can_show():
    text = str(UserError("a\nb\x1b[31m\ud800 " + "c" * 10**6 + " way out"))
    assert text.startswith("a b\\x1b[31m\\ud800 ccc") and text.endswith("ccc way out")
    assert text.isprintable() and len(text) < 5000
