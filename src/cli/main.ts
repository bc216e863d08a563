/**
 * `mesh`: finds the command, runs it, and turns what it throws into a message and an exit code.
 *
 * Only what `mesh version` needs is imported here; the commands load the rest. It builds the real
 * streams, clock and random numbers.
 */
import { once } from 'node:events'
import { systemClock } from '../base/clock.ts'
import { EXIT, hasCode, MeshError } from '../base/errors.ts'
import { systemRandom } from '../base/random.ts'
import { COMMANDS } from './command-table.ts'
import { GLOBAL_OPTIONS, helpOf, optionLine, readArguments } from './command.ts'
import { printJson, printLines, type Context, type Output } from './context.ts'
import { errorJson, errorLines, reportOf } from './report-error.ts'
import { nearest } from '../base/nearest.ts'
import { isUtf8Locale, wantsColour } from './text/style.ts'

/** Exit code of a program that writes to a closed pipe (128 + SIGPIPE). */
const EXIT_BROKEN_PIPE = 141
const COLUMNS_DEFAULT = 80
const ROWS_DEFAULT = 24

function makeContext(argv: readonly string[]): Context {
  const choice =
    argv.findLast((_, at) => argv[at - 1] === '--color') ??
    argv.findLast((arg) => arg.startsWith('--color='))?.slice('--color='.length)
  return {
    clock: systemClock(),
    random: systemRandom(),
    env: process.env,
    cwd: process.cwd(),
    stdout: makeOutput(process.stdout, choice ?? 'auto'),
    stderr: makeOutput(process.stderr, choice ?? 'auto'),
    // Touching it costs time; few commands do.
    get stdin() {
      return process.stdin
    },
    onInterrupt(listener) {
      process.on('SIGINT', listener)
      process.on('SIGTERM', listener)
      return {
        [Symbol.dispose]() {
          process.off('SIGINT', listener)
          process.off('SIGTERM', listener)
        },
      }
    },
    leave: (code) => process.exit(code),
  }
}

function makeOutput(stream: NodeJS.WriteStream, colour: string): Output {
  stream.on('error', (error) => {
    if (!hasCode(error, 'EPIPE')) throw error
    // Nobody reads stdout any more, as in `mesh jobs | head`. Progress that nobody reads is no reason to stop.
    if (stream === process.stdout) process.exit(EXIT_BROKEN_PIPE)
  })
  return {
    async write(text) {
      if (!stream.write(text) && stream.writable)
        await Promise.race([once(stream, 'drain'), once(stream, 'close')])
    },
    isTty: stream.isTTY,
    // A terminal that was never told its size says 0.
    columns: () => (stream.isTTY ? stream.columns || COLUMNS_DEFAULT : undefined),
    rows: () => (stream.isTTY ? stream.rows || ROWS_DEFAULT : undefined),
    style: {
      colour: wantsColour(colour, process.env, stream.isTTY),
      unicode: isUtf8Locale(process.env),
    },
    onResize: (listener) => void stream.on('resize', listener),
  }
}

async function main(context: Context, argv: readonly string[]): Promise<number> {
  const at = commandIndex(argv)
  const name = at === undefined ? undefined : argv[at]
  if (at === undefined || name === undefined || name === 'help') {
    const topic = COMMANDS.find((command) => name === 'help' && command.name === argv.at(-1))
    if (name !== 'help' && !argv.includes('-h') && !argv.includes('--help'))
      throw new MeshError('MESH0002', 'a command is missing', { hints: ['mesh --help'] })
    await printLines(context.stdout, topic === undefined ? overview() : helpOf(topic))
    return EXIT.ok
  }
  const spec = COMMANDS.find((command) => command.name === name)
  if (spec === undefined) {
    const [close] = nearest(
      name,
      COMMANDS.map((command) => command.name),
    )
    throw new MeshError('MESH0002', `there is no command ${JSON.stringify(name)}`, {
      hints: [close === undefined ? 'mesh --help' : `did you mean "mesh ${close}"?`],
    })
  }
  const args = readArguments(spec, [...argv.slice(0, at), ...argv.slice(at + 1)])
  if (args.flag('help')) {
    await printLines(context.stdout, helpOf(spec))
    return EXIT.ok
  }
  return (await spec.load())(context, args)
}

/** Where the command's name stands: the first word that is no global option and no value of one. */
function commandIndex(argv: readonly string[]): number | undefined {
  for (let at = 0; at < argv.length; at++) {
    const arg = argv[at] ?? ''
    if (!arg.startsWith('-')) return at
    if (GLOBAL_OPTIONS.some(({ name }) => arg === `--${name}`)) at++
  }
  return undefined
}

function overview(): string[] {
  const nameWidth = Math.max(...COMMANDS.map(({ name }) => name.length))
  return [
    'Usage: mesh COMMAND [options]',
    '',
    'The client of a content-addressed distributed build mesh.',
    '',
    'Commands:',
    ...COMMANDS.map(({ name, sentence }) => `  ${name.padEnd(nameWidth)}  ${sentence}`),
    '',
    'Options of every command (mesh COMMAND --help shows its own):',
    ...GLOBAL_OPTIONS.map(optionLine),
  ]
}

/** True when the caller wants JSON, also when the command line could not be read. */
function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf('--')
  return argv.slice(0, end === -1 ? undefined : end).includes('--json')
}

const argv = process.argv.slice(2)
const context = makeContext(argv)
// Timers do not keep a process alive; a command that only waits for one must not end there.
const { port1: running } = new MessageChannel()
running.ref()
try {
  process.exitCode = await main(context, argv)
} catch (error) {
  const report = reportOf(error)
  if (wantsJson(argv)) await printJson(context.stdout, errorJson(report))
  else await printLines(context.stderr, errorLines(report, context.stderr.style))
  process.exitCode = report.exit
}
running.close()
