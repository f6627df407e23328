# Runs R's kernel, IRkernel, in place of its own main(), with three changes (code-interpreter-and-cli 2.5, 2.6):
#
# * The value of a cell's last expression is its result. IRkernel sends all values as displays, of which clients take none
#   for the result.
# * Code that asks for input gets an error. IRkernel asks even who said that he has no input to give, and waits for ever.
# * A cell that fails or is interrupted does not drop the cells that wait behind it.
local({
  kernel <- IRkernel:::Kernel$new(connection_file = commandArgs(TRUE)[[1]])

  use <- function() {
    ours <- methods::setRefClass(
      "SandpitExecutor",
      contains = IRkernel:::Executor$className,
      fields = list(expressions = "integer", in_last = "logical"),
      methods = list(
        execute = function(request) {
          parsed <- tryCatch(parse(text = request$content$code, keep.source = FALSE), error = function(problem) NULL)
          expressions <<- length(parsed)
          callSuper(request)
        },
        # Called for each expression, whether its value is visible or not.
        handle_value = function(obj, visible) {
          expressions <<- expressions - 1L
          in_last <<- expressions == 0L
          on.exit(in_last <<- FALSE)
          callSuper(obj, visible)
        }
      ),
      where = new.env(parent = asNamespace("IRkernel"))
    )
    refuse <- function() {
      stop("code in this sandbox cannot ask for input: write the value into the code, or read it from a file", call. = FALSE)
    }
    send <- function(msg_type, parent_msg, socket_name, content) {
      if (msg_type == "display_data" && kernel$executor$in_last) {
        msg_type <- "execute_result"
        content$execution_count <- kernel$executor$execution_count
      }
      kernel$send_response(msg_type, parent_msg, socket_name, content)
    }
    kernel$executor <- ours$new(
      send_response = send, handle_stdin = refuse, abort_queued_messages = function() NULL,
      expressions = 0L, in_last = FALSE
    )
  }

  # A release of IRkernel that is made differently must not cost the kernel.
  tryCatch(suppressMessages(use()), error = function(problem) message("IRkernel stays as it is: ", conditionMessage(problem)))
  kernel$run()
})
