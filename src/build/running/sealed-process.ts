/**
 * Starts a build behind walls, by the sandbox of this machine, and reads what that reports on descriptor 3:
 * how the build ended, or why it did not begin.
 */
import { spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { BuildEnd, BuildSpec, SandboxChoice } from '../executor-protocol.ts'
import type { JobControl } from '../jobs/build-jobs.ts'
import { parseReport, sandboxCommand } from '../sandbox-command.ts'
import type { HostLayout } from '../sandbox-layout.ts'
import { SEARCH_PATH } from '../tool-path.ts'
import { endOf, type BuildProcess } from './build-process.ts'

/** Nothing honest is longer. */
const REPORT_CHARS_MAX = 64 * 1024

export async function startSealed(
  { sandbox, layout }: { readonly sandbox: SandboxChoice; readonly layout: HostLayout },
  spec: BuildSpec,
  options: {
    /** Descriptors for stdout and stderr; the caller closes them. */
    readonly output: readonly [number, number]
    readonly control: Pick<JobControl, 'env' | 'inherited'> | undefined
  },
): Promise<BuildProcess> {
  const { output, control } = options
  const { command, args, input, files } = sandboxCommand(
    sandbox,
    layout,
    { ...spec, env: { ...control?.env, ...spec.env } },
    control?.inherited,
  )
  const descriptors: (number | 'ignore')[] = []
  try {
    for (const { name, content, fd } of files) {
      const path = join(spec.directory, name)
      await writeFile(path, content, { mode: 0o644, flag: 'wx' })
      if (fd !== undefined) descriptors[fd - 4] = openSync(path, 'r')
    }
    const child = spawn(command, args, {
      stdio: ['ignore', ...output, 'pipe', ...descriptors],
      // Its own name is all that the build sees of it in /proc/1.
      argv0: basename(command),
      env: { PATH: SEARCH_PATH },
      cwd: '/',
      detached: true,
    })
    const ended = endOf(child)
    let report = ''
    const channel = child.stdio[3]
    const isOpen = channel !== null && channel !== undefined && 'write' in channel
    if (isOpen) {
      channel.on('error', () => {
        // The sandbox ended before it read its specification: its exit tells why.
      })
      channel.on('data', (bytes: Buffer) => {
        if (report.length < REPORT_CHARS_MAX) report += bytes.toString('latin1')
      })
    }
    return {
      pid: child.pid,
      ended,
      release() {
        // A helper has no child before it has read this. Others read nothing: they may be over by now, and a
        // channel that nobody reads any more loses what it still holds when it is written to.
        if (isOpen && input.length > 0) channel.end(input)
      },
      judge: ({ code, signal }, stderrTail) =>
        judgeReport(Buffer.from(report, 'latin1').toString(), {
          code,
          signal,
          stderr: stderrTail.trim(),
        }),
    }
  } finally {
    for (const fd of descriptors) if (typeof fd === 'number') closeSync(fd)
  }
}

/** What the sandbox itself wrote on stderr explains its failures. */
function judgeReport(
  text: string,
  {
    code,
    signal,
    stderr,
  }: { readonly code: number | null; readonly signal: string | null; readonly stderr: string },
): ReturnType<BuildProcess['judge']> {
  const { end: told, begun, cpuMs, maxRssBytes } = parseReport(text)
  const usage = { cpuMs, maxRssBytes }
  if (told?.kind === 'infrastructure' && stderr !== '')
    return { end: { ...told, message: `${told.message}: ${stderr}` }, usage }
  const silent: BuildEnd = begun
    ? { kind: 'exited', code: code ?? 137 }
    : {
        kind: 'infrastructure',
        message: `sandbox: ended with ${code ?? signal} and no report: ${stderr}`,
      }
  return { end: told ?? silent, usage }
}
