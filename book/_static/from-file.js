// The search shows a summary of each page that it finds, which it fetches: browsers refuse that to
// pages that are opened as files.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
