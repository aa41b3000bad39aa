"""Chat templates that are not built in, as their files have them: in Jinja, and not to be trusted.

template      the `Template` that renders by one
markers       what of a message can be taken for a special token, and what cannot
calls         how it writes calls of tools, if it does
process       the process that compiles and renders, under limits
child         what runs in it, with `environment` and `said`
"""
