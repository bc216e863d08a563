/**
 * Starts a build without walls: a process of this host, with the paths of its directory in the place of those
 * below `/build`, held back by a gate (plain-command.ts) until it is in its control groups, where it has any.
 */
import { spawn } from 'node:child_process'
import { closeSync, constants, openSync } from 'node:fs'
import { plainPath } from '../attempt-directory.ts'
import type { BuildSpec } from '../executor-protocol.ts'
import { DESCRIPTORS, type JobControl } from '../jobs/build-jobs.ts'
import { gatedCommand } from '../plain-command.ts'
import { DIRECTORY_VARIABLE } from '../process-list.ts'
import { endOf, NO_USAGE, type BuildProcess } from './build-process.ts'

/** Throws what the system says of a builder that cannot be started, or `ended` tells it. */
export function startPlain(
  spec: BuildSpec,
  options: {
    /** Descriptors for stdout and stderr; the caller closes them. */
    readonly output: readonly [number, number]
    readonly control: Pick<JobControl, 'env' | 'inherited'> | undefined
    readonly isGated: boolean
  },
): BuildProcess {
  const { output, control, isGated } = options
  const [builder = '', ...args] = spec.argv
  const env: Record<string, string> = { [DIRECTORY_VARIABLE]: spec.directory, ...control?.env }
  for (const [name, value] of Object.entries(spec.env)) env[name] = plainPath(spec, value)
  const plain = { builder: plainPath(spec, builder), args, env, cwd: plainPath(spec, spec.cwd) }
  const gated = isGated ? gatedCommand(plain) : undefined
  const stdio: (number | 'ignore' | 'pipe')[] = ['ignore', ...output]
  if (gated !== undefined) stdio.push('pipe')
  const fifo = control?.inherited
  if (fifo !== undefined)
    for (let fd = stdio.length; fd <= DESCRIPTORS[1]; fd++)
      stdio.push(fd < DESCRIPTORS[0] ? 'ignore' : openSync(fifo, constants.O_RDWR))
  const child = spawn(gated?.command ?? plain.builder, gated?.args ?? args, {
    stdio,
    env,
    cwd: plain.cwd,
    detached: true,
  })
  for (const fd of stdio.slice(DESCRIPTORS[0])) if (typeof fd === 'number') closeSync(fd)
  const gate = gated === undefined ? undefined : child.stdio[3]
  const isHeld = gate !== null && gate !== undefined && 'write' in gate
  if (isHeld)
    gate.on('error', () => {
      // It was killed before it read: its end tells.
    })
  return {
    pid: child.pid,
    ended: endOf(child),
    release() {
      if (isHeld) gate.end('go\n')
    },
    judge: ({ code, signal }) => ({
      end:
        code === null
          ? { kind: 'signalled', signal: signal ?? 'SIGKILL' }
          : { kind: 'exited', code },
      usage: NO_USAGE,
    }),
  }
}
