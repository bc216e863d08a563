/**
 * How each sandbox method is started for one build, and what it reports on descriptor 3.
 *
 * The helper is our own program (sandbox/mesh-sandbox.c). bubblewrap and unshare make do with what a
 * distribution has: shell scripts on descriptor 4 run the build and report in the same lines. They are
 * weaker in what they can tell: a build killed by signal N ends as exit 128+N, and the usage lacks memory.
 */
import { constants } from 'node:os'
import { quote } from '../base/quote.ts'
import type { BuildEnd, BuildSpec, SandboxChoice } from './executor-protocol.ts'
import { placesOf, type HostLayout } from './sandbox-layout.ts'
import { bwrapCommand } from './sandbox/bwrap-command.ts'
import { helperCommand } from './sandbox/helper-command.ts'
import type { SandboxCommand } from './sandbox/started-sandbox.ts'
import { unshareCommand } from './sandbox/unshare-command.ts'

/** `sandbox.method` is not `none`. */
export function sandboxCommand(
  sandbox: SandboxChoice,
  layout: HostLayout,
  spec: BuildSpec,
  /** A FIFO in the sandbox to be open in the build at descriptors that its tools are told of. */
  inherited?: string,
): SandboxCommand {
  const places = placesOf(layout, spec)
  switch (sandbox.method) {
    case 'helper':
      return helperCommand(sandbox.program, layout, spec, { places, inherited })
    case 'bwrap':
      return bwrapCommand(sandbox.program, layout, spec, { places, inherited })
    case 'unshare':
      return unshareCommand(sandbox.program, layout, spec, { places, inherited })
    case 'none':
      throw new Error('there is no sandbox on this machine')
  }
}

/** For a person at a terminal, whose process `parentPid` starts it. The sandbox is the helper. */
export function shellCommand(
  sandbox: SandboxChoice,
  layout: HostLayout,
  spec: BuildSpec,
  parentPid: number,
): { readonly program: string; readonly input: string } {
  const inside = { places: placesOf(layout, spec), inherited: undefined }
  const how = { parentPid, isTerminal: true }
  const { command, input } = helperCommand(sandbox.program, layout, spec, inside, how)
  return { program: command, input }
}

/** A script that does what the builder was started with. */
export function shellScript(argv: readonly string[]): string {
  return `exec ${argv.map(quote).join(' ')}\n`
}

/** What the report on descriptor 3 says. */
export interface SandboxReport {
  /** Undefined when the sandbox ended without a word. */
  readonly end: BuildEnd | undefined
  /** The build itself had begun. */
  readonly begun: boolean
  readonly cpuMs: number
  readonly maxRssBytes: number
}

export function parseReport(text: string): SandboxReport {
  let end: BuildEnd | undefined
  let begun = false
  let cpuMs = 0
  let maxRssBytes = 0
  for (const line of text.split('\n')) {
    const [key = '', ...words] = line.split(' ')
    const rest = words.join(' ')
    if (key === 'failed') end ??= { kind: 'infrastructure', message: `sandbox: ${rest}` }
    else if (key === 'builder') end ??= { kind: 'builder-not-found', message: rest }
    else if (key === 'begun') begun = true
    else if (key === 'exited') end ??= { kind: 'exited', code: Number(rest) }
    else if (key === 'signalled') end ??= { kind: 'signalled', signal: signalName(Number(rest)) }
    else if (key === 'usage') [cpuMs = 0, maxRssBytes = 0] = words.map(Number)
    // The last line that `times` prints: user and system time of all children.
    else if (/^\d+m[\d.]+s$/.test(key))
      cpuMs = words.concat(key).reduce((sum, time) => sum + shellTimeMs(time), 0)
  }
  return { end, begun, cpuMs, maxRssBytes }
}

function shellTimeMs(time: string): number {
  const [minutes = 0, seconds = 0] = time.replace('s', '').split('m').map(Number)
  return Math.round(minutes * 60_000 + seconds * 1000)
}

function signalName(number: number): string {
  return (
    Object.entries(constants.signals).find(([, value]) => value === number)?.[0] ??
    `signal ${number}`
  )
}
