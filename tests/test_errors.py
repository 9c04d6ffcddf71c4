from rgjax.errors import UserError


def test_a_user_error_is_not_mistaken_for_a_defect():
    assert not issubclass(UserError, ValueError | TypeError | OSError)
