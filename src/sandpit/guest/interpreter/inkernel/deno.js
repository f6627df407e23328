// What Deno's kernel lacks; it runs once, before the first cell. The last value of a cell is awaited, SIGINT ends that wait instead of
// the process, and the service can ask for a mark at the end of the output (see ../deno.py).
{
  const kernel = Deno[Deno.internal].jupyter
  const { broadcast } = Deno.jupyter
  const show = kernel.broadcastResult
  let interrupt = () => {}

  const failure = (reason) => {
    const { name, message, stack } = Object(reason)
    if (typeof name !== 'string' || typeof message !== 'string') {
      return { ename: 'Error', evalue: typeof reason === 'string' ? reason : Deno.inspect(reason), traceback: [''] }
    }
    const lines = String(stack ?? '').split('\n')
    const ours = lines.findIndex((line) => line.includes('broadcastResult'))
    return { ename: name, evalue: message, traceback: ours < 0 ? lines : lines.slice(0, ours) }
  }

  kernel.broadcastResult = async function broadcastResult(count, value) {
    const interrupted = new Promise((_, reject) => {
      interrupt = () => reject(new Error('Interrupted while the value of the cell was awaited'))
    })
    try {
      value = await Promise.race([value, interrupted])
    } catch (reason) {
      return await broadcast('error', failure(reason))
    } finally {
      interrupt = () => {}
    }
    await show(count, value)
  }

  Deno.addSignalListener('SIGINT', () => interrupt())
  Object.defineProperty(globalThis, Symbol.for('sandpit.flush'), {
    value: () => void broadcast('display_data', { data: { 'application/vnd.sandpit.flushed': {} }, metadata: {}, transient: {} }),
  })
}
