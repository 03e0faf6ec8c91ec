//! who wants this topic: filter tries, shared groups, retained index; pure.
