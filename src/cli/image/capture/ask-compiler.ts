/**
 * What a compiler needs that no header of its program names: its passes, assembler and linker, headers,
 * start files, libraries. It is asked for each, so that whatever it was configured with is what is taken.
 *
 * The idea is that of icecream's `icecc-create-env`; the questions are gcc's, which clang answers too.
 */
import { dirname } from 'node:path'
import type { Clock } from '../../../base/clock.ts'
import { askTool } from './ask-tool.ts'

/** Programs by the names that a compiler knows them by. */
const PASSES = [
  'as',
  'ar',
  'cc1',
  'cc1plus',
  'collect2',
  'f951',
  'g++-mapper-server',
  'ld',
  'ld.bfd',
  'ld.gold',
  'ld.lld',
  'lto-wrapper',
  'lto1',
  'nm',
  'objcopy',
  'objdump',
  'ranlib',
  'readelf',
  'strip',
]
/** With the C library's, those of the compiler that are not in its own directory everywhere. */
const FILES = [
  ...['crt1.o', 'Scrt1.o', 'rcrt1.o', 'gcrt1.o', 'grcrt1.o', 'Mcrt1.o', 'crti.o', 'crtn.o'],
  ...[
    'c',
    'm',
    'mvec',
    'pthread',
    'dl',
    'rt',
    'util',
    'resolv',
    'anl',
    'crypt',
    'thread_db',
  ].flatMap((name) => [`lib${name}.so`, `lib${name}.a`]),
  ...['libc_nonshared.a', 'libpthread_nonshared.a', 'libg.a', 'libmcheck.a'],
  ...[
    'gcc_s',
    'stdc++',
    'gomp',
    'atomic',
    'itm',
    'quadmath',
    'asan',
    'ubsan',
    'tsan',
    'lsan',
  ].flatMap((name) => [`lib${name}.so`, `lib${name}.a`]),
  ...['libgcc_s.so.1', 'libsupc++.a', 'libgfortran.so', 'libgfortran.a', 'liblto_plugin.so'],
  ...['libgomp.spec', 'libsanitizer.spec', 'libitm.spec', 'libgfortran.spec', 'specs'],
]
const LANGUAGES = ['c', 'c++'] as const

const COMPILER = /(?:^|-)(?:gcc|g\+\+|cc|c\+\+|cpp|clang|clang\+\+|gfortran)(?:-\d+(?:\.\d+)*)?$/

/** Whether a program of this name answers the questions of a compiler. */
export const isCompiler = (name: string): boolean => COMPILER.test(name)

export interface CompilerParts {
  /** Absolute paths, or names to be looked up in PATH. */
  readonly programs: readonly string[]
  readonly files: readonly string[]
  /** Directories that are taken whole. */
  readonly trees: readonly string[]
  /** Directories in which it looks for libraries; they are not taken. */
  readonly libraryDirectories: readonly string[]
}

export async function askCompiler(
  clock: Clock,
  compiler: string,
  onWarning: (text: string) => void,
): Promise<CompilerParts> {
  const ask = (...args: string[]): Promise<string | undefined> =>
    askTool(clock, [compiler, ...args])
  const programs: string[] = []
  const files: string[] = []
  const trees: string[] = []
  for (const name of PASSES) {
    const answer = (await ask(`-print-prog-name=${name}`))?.trim() ?? ''
    if (answer === '') continue
    programs.push(answer)
    // The passes have plugins and data beside them.
    if (/\/gcc[^/]*\//.test(answer)) trees.push(dirname(answer))
  }
  for (const name of FILES) {
    const answer = (await ask(`-print-file-name=${name}`))?.trim() ?? ''
    if (answer.startsWith('/')) files.push(answer)
  }
  const directories = (await ask('-print-search-dirs')) ?? ''
  const install = /^install:\s*(\/\S.*)$/m.exec(directories)?.[1]?.trim()
  if (install !== undefined) trees.push(install)
  const resources = (await ask('-print-resource-dir'))?.trim()
  if (resources?.startsWith('/') === true) trees.push(resources)
  for (const language of LANGUAGES) {
    const text = await ask('-E', '-v', '-x', language, '/dev/null')
    // A compiler of C alone is none of C++.
    if (text !== undefined) trees.push(...includeDirectories(text))
    else if (language === 'c') onWarning(`${compiler} does not tell where its headers are`)
  }
  const libraries = /^libraries:\s*=?(.*)$/m.exec(directories)?.[1] ?? ''
  return {
    programs: [...new Set(programs)],
    files: [...new Set(files)],
    trees: [...new Set(trees)],
    libraryDirectories: libraries.split(':').filter((path) => path.startsWith('/')),
  }
}

/** Of what `-E -v` says. */
function includeDirectories(text: string): string[] {
  const [, list = ''] =
    /#include <\.\.\.> search starts here:\n([\s\S]*?)End of search list\./.exec(text) ?? []
  return list
    .split('\n')
    .map((line) => line.trim().replace(/ \(framework directory\)$/, ''))
    .filter((line) => line.startsWith('/'))
}
