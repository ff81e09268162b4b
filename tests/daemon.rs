//! A master that lives for years: log files, the background, service managers, containers.
