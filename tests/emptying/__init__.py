"""How a test's database is emptied although the audit trail refuses it: an app of the tests,
whose `flush` switches the triggers off for as long as it takes. No vault has it installed."""
