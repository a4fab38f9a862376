"""Rules and value types of runs, checkpoints and recipes, the same for every caller.

Pure: no SQL, no HTTP, no files but the operator's own. Other rooms ask these; they import nothing
of the app but `app.errors` and each other.

lifecycle, evidence, retries  how a run moves, how it has ended, whether it is tried again
recipes, recipe_values        what a run may execute; recipe_file reads it; resources: its needs
requests, reports, filters    what clients and trainers may send, validated once for every API
ids, paths, points, text(s), tokens, hosts  the small types that all of these are made of
"""
