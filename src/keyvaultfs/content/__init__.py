"""The bytes of a file, made of bytes: pure, without time, network or cache.

Every maker takes `SecretValue`s and gives one `SecretValue` back, so that what is composed is shown as little as what
it is composed of. What cannot be made is `errors.CannotMake`, whose text quotes no value. What is wrong with a recipe
before any secret is known, such as a pointer that is none, is a `ValueError` (`template.Mistake` for templates, which
knows its line): for whoever reads the configuration.

============== ==========================================================================================
`decode`       the tag ``file-encoding`` and the key ``decode``: base64 and hex
`field`        one field of a JSON value, by key or JSON Pointer
`certificate`  key, cert, chain, fullchain, pem, pfx of a certificate's secret (needs cryptography)
`formats`      env, properties, json, yaml of several values
`quoting`      text as pgpass, mycnf, netrc, sh, env, properties, toml, xml read it back
`template`     Jinja2 in a sandbox; its secrets are known before it is rendered (needs Jinja2)
`ending`       a newline at the end
`libraries`    whether the libraries of `certificate` and `template` are there, and what to install
============== ==========================================================================================

A file's steps, in this order: ``decode``, then ``field`` or ``part``, then ``newline``. cryptography and Jinja2 are
imported only by functions that need them.
"""
