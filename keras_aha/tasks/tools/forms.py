"""The forms in which a tool may be called, by name."""

from keras_aha.tasks.tools.tags_form import TagsForm

TOOL_FORMS = {"tags": TagsForm}
