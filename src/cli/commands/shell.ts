/** `mesh shell`: the place in which a job ran, opened again with a shell in it. */
import { spawn } from 'node:child_process'
import { Readable } from 'node:stream'
import { EXIT, hasCode, MeshError, messageOf } from '../../base/errors.ts'
import { ShellReady } from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'
import { linesOf, openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printLines, type Context } from '../context.ts'
import { resolveJob } from '../resolve-job.ts'

const REPORT_CHARS_MAX = 64 * 1024

export async function shell(context: Context, args: Arguments): Promise<number> {
  const argv = args.operands.slice(1)
  if (argv.length === 0 && !context.stdin.isTTY)
    throw new MeshError('MESH0104', 'there is no terminal for a shell', {
      hints: ['run one command instead: mesh shell JOB -- COMMAND'],
    })
  using client = await openClient(context, args)
  const job = await resolveJob(client, args.operand(0))
  const leaving = new AbortController()
  const query = new URLSearchParams({ pid: String(process.pid), argv: JSON.stringify(argv) })
  const attempt = args.text('attempt')
  if (attempt !== undefined) query.set('attempt', attempt)
  const path = `/api/jobs/${encodeURIComponent(job.id)}/shell?${query.toString()}`
  try {
    // The place is kept for as long as this stream is open.
    for await (const line of linesOf(client.stream(path, leaving.signal)))
      return await enter(context, parseWith(ShellReady, JSON.parse(line), 'shell'), argv)
    throw new MeshError('MESH0505', 'the daemon gave no shell')
  } finally {
    leaving.abort()
  }
}

async function enter(
  context: Context,
  ready: ShellReady,
  argv: readonly string[],
): Promise<number> {
  const uid = process.geteuid?.() ?? 0
  if (uid !== ready.uid)
    throw new MeshError(
      'MESH0604',
      `the daemon runs as user ${ready.uid}, and you are ${uid}: only its user can enter its sandboxes`,
      { hints: [ready.uid === 0 ? 'sudo mesh shell …' : `sudo -u '#${ready.uid}' mesh shell …`] },
    )
  const lines = [
    ...(ready.warning === null ? [] : [`warning: ${ready.warning}`]),
    ...(argv.length === 0
      ? [
          `in the environment of ${ready.name}: inputs in /build/in, work in /build/work, and all goes when you leave`,
          'what was built: sh /build/home/builder.sh',
        ]
      : []),
  ]
  await printLines(context.stderr, lines)
  // What the terminal sends is for the shell; this process waits for its end.
  using ignoring = context.onInterrupt(() => undefined)
  void ignoring
  const child = spawn(ready.program, [], {
    stdio: ['inherit', 'inherit', 'inherit', 'pipe'],
    env: {},
    cwd: '/',
  })
  let report = ''
  const channel = child.stdio[3]
  if (channel instanceof Readable && 'end' in channel && typeof channel.end === 'function') {
    channel.on('error', () => {
      // It ended before it read all: its report or exit tells why.
    })
    channel.on('data', (bytes: Buffer) => {
      if (report.length < REPORT_CHARS_MAX) report += bytes.toString('latin1')
    })
    channel.end(ready.input)
  }
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', (error) =>
      reject(
        hasCode(error, 'ENOENT', 'EACCES')
          ? new MeshError('MESH0604', `the sandbox cannot be started: ${messageOf(error)}`)
          : error,
      ),
    )
    child.once('close', resolve)
  })
  return exitCodeOf(report, code)
}

/** What the sandbox says of the shell's end. Throws MESH0505 where it came to none. */
function exitCodeOf(report: string, code: number | null): number {
  const text = Buffer.from(report, 'latin1').toString()
  const failed = /^failed (.*)$/m.exec(text)?.[1]
  if (failed !== undefined) throw new MeshError('MESH0505', `sandbox: ${failed}`)
  const builder = /^builder (.*)$/m.exec(text)?.[1]
  if (builder !== undefined) throw new MeshError('MESH0406', builder)
  const signal = /^signalled (\d+)$/m.exec(text)?.[1]
  if (signal !== undefined) return 128 + Number(signal)
  const exit = /^exited (\d+)$/m.exec(text)?.[1]
  return exit === undefined ? (code ?? EXIT.internal) : Number(exit)
}
