"""Who plays: two teams, with an alice in each of them."""

from dataclasses import dataclass

TENANTS = ("acme", "globex")

# Seconds. What this Anthropic gives for the life of an access token whenever it refreshes one,
# and how long before its end acme has its tokens refreshed.
LIFETIME, THRESHOLD = 30, 10
# What the logins begin with that are not to end while somebody watches.
LONG_LIFE = 8 * 3600


@dataclass(frozen=True)
class Person:
    """One user of one team's LiteLLM. Elsewhere there may be another of the same name."""

    tenant: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} of {self.tenant}"

    @property
    def account(self) -> str:
        """Under which Anthropic knows the person, and by which it greets."""
        return f"{self.name}-of-{self.tenant}"


ALICE = Person("acme", "alice")
BOB = Person("acme", "bob")
MALLORY = Person("acme", "mallory")
CAST = (
    ALICE,
    BOB,
    MALLORY,
    Person("globex", "alice"),
    Person("globex", "carol"),
    Person("globex", "dave"),
)


def first_life(person: Person) -> int:
    """Seconds that the access token has with which this person comes."""
    return LIFETIME if person in (ALICE, MALLORY) else LONG_LIFE
