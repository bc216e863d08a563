/**
 * How our own program (mesh-sandbox.c) is started: without arguments, for what it is to do it reads from
 * descriptor 3, as words that end in NUL. A build behind it cannot see them.
 */
import { join } from 'node:path'
import type { BuildSpec, ImageRoot } from '../executor-protocol.ts'
import { CHANGES, type HostLayout } from '../sandbox-layout.ts'
import type { Inside, SandboxCommand } from './started-sandbox.ts'

export function helperCommand(
  program: string,
  layout: HostLayout,
  spec: BuildSpec,
  { places, inherited }: Inside,
  { parentPid, isTerminal } = { parentPid: process.pid, isTerminal: false },
): SandboxCommand {
  const words = [
    'uid',
    `${layout.uid}`,
    'gid',
    `${layout.gid}`,
    'parent',
    `${parentPid}`,
    'root',
    layout.root,
    'cwd',
    spec.cwd,
  ]
  if (spec.network) words.push('network')
  if (isTerminal) words.push('terminal')
  if (inherited !== undefined) words.push('jobserver', inherited)
  if (spec.image !== undefined) words.push(...imageWords(spec, spec.image))
  for (const { kind, from, at } of places) words.push(kind, from, at)
  for (const arg of spec.argv) words.push('arg', arg)
  for (const [name, value] of Object.entries(spec.env)) words.push('env', `${name}=${value}`)
  words.push('end', '')
  return { command: program, args: [], input: words.join('\0'), files: [] }
}

function imageWords({ directory }: BuildSpec, { layers, is32Bit, emulator }: ImageRoot): string[] {
  const words = layers.flatMap((layer) => ['layer', layer])
  words.push('changes', join(directory, CHANGES))
  if (is32Bit === true) words.push('linux32')
  if (emulator !== undefined)
    words.push('emulator', emulator.program, 'binary', emulator.binary, 'flags', emulator.flags)
  return words
}
