"""How passwords are hashed: Argon2id as OWASP recommends it, 19 MiB and a few hundredths of a second a login."""

from django.contrib.auth.hashers import Argon2PasswordHasher


class Argon2(Argon2PasswordHasher):
    """Django's own takes 100 MiB and eight threads, which a few logins at once could bring a small machine down with."""

    time_cost = 2
    memory_cost = 19 * 1024
    parallelism = 1
