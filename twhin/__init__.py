"""The name that the components and pipelines are installed under, which no project of its users' has.

Here, `twhin/components` and `twhin/pipelines` are links to the folders beside this one; a wheel holds copies.
"""
