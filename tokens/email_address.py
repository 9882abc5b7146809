"""The account that a login belongs to, as far as somebody has named it: its e-mail address.

The authorization server names it beside a new pair, and a file may. It is no secret, and it is
personal: kept as a column of the credential, shown to its tenant's operators and found by them;
in no answer of the API, no metric, no log and not in the audit trail, whose records cannot be
corrected. It ends with its row. Nothing is decided by it: whoever is handed a token is told by
the key, never by an address that the far side, or a file, has put there.
"""

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from oauthvault.logging import redact

# RFC 5321, section 4.5.3.1.3: a path is at most 256 octets, with its two brackets.
LONGEST = 254


def email_of(value: object) -> str:
    """The address in lower case, as it is stored and searched for; empty for what is none.

    An account that cannot be read must never cost anybody a pair: so nothing is raised.
    """
    if not isinstance(value, str) or len(value) > LONGEST or not value.isprintable():
        return ""
    address = value.lower()
    try:
        validate_email(address)
    except ValidationError:
        return ""
    # Lower case may be longer than what it came from; and a secret is no address.
    return address if len(address) <= LONGEST and redact(value) == value else ""


def named_in(account: object) -> str:
    """The address in the ``account`` object of a token response; empty where there is none."""
    return email_of(account.get("email_address")) if isinstance(account, dict) else ""
