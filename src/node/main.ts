/** `mesh-node`: the process. Builds the real clock, random numbers, streams and signals; the rest is run-node.ts. */
import { systemClock } from '../base/clock.ts'
import { EXIT, hasCode } from '../base/errors.ts'
import { systemRandom } from '../base/random.ts'
import { systemConfigIo, takeEnvironment } from './config/config-io.ts'
import { createLogger } from './process/logging.ts'
import { hasTerminal } from './process/reload.ts'
import { runNode } from './run-node.ts'
import { openTerminal } from './setup/terminal.ts'

for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error) => {
    // Nobody reads any more; a daemon goes on without.
    if (!hasCode(error, 'EPIPE')) throw error
  })

const env = takeEnvironment()
const hadTerminal = process.stderr.isTTY && hasTerminal()
// Should the event loop run empty before the end, then something was forgotten.
process.exitCode = EXIT.internal
const code = await runNode(process.argv.slice(2), {
  env,
  io: systemConfigIo(env, { isTty: process.stderr.isTTY }),
  clock: systemClock(),
  random: systemRandom(),
  pid: process.pid,
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  createLogger: (options) => createLogger(options),
  loadDaemon: () => import('./daemon.ts'),
  onSignal(listener) {
    process.on('SIGTERM', listener)
    process.on('SIGINT', listener)
  },
  onReload(listener) {
    process.on('SIGHUP', () => {
      // A terminal that is closed ends what runs in it, as ever.
      if (hadTerminal && !hasTerminal()) process.kill(process.pid, 'SIGTERM')
      else listener()
    })
  },
  openTerminal: () => openTerminal(process.stdin, process.stderr),
  onCrash(listener) {
    process.on('uncaughtException', listener)
    process.on('unhandledRejection', listener)
  },
  exit: (status) => process.exit(status),
})
// Connections that close slowly do not hold the process.
process.exit(code)
