DROP TABLE flosse_bus_event CASCADE
--
DROP TABLE flosse_bus_topic CASCADE
--
DROP TABLE flosse_bus_run CASCADE
--
DROP TABLE flosse_bus_key CASCADE
--
DROP FUNCTION
    flosse_bus_append, flosse_bus_append_many, flosse_bus_settle, flosse_bus_enlist,
    flosse_bus_publish, flosse_bus_listen, flosse_bus_read, flosse_bus_flush, flosse_bus_truncated,
    flosse_bus_trim, flosse_bus_trim_after, flosse_bus_shrink, flosse_bus_bounds,
    flosse_bus_forgotten, flosse_bus_floor, flosse_bus_forget, flosse_bus_await, flosse_bus_claim,
    flosse_bus_tidy, flosse_bus_number, flosse_bus_open, flosse_bus_begin, flosse_bus_state,
    flosse_bus_channel
--
DROP TABLE flosse_bus_log
